"""Pictures as SVG, drawn without a browser: for the page, and as files that stand alone."""

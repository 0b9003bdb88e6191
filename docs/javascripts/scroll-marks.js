// Code and tables that are wider than the page scroll; their edge fades where there is more to see.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const boxes = document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap");
  const mark = box => {
    box.classList.toggle("more-left", box.scrollLeft > 1);
    box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  };
  const sizes = new ResizeObserver(entries => entries.forEach(entry => mark(entry.target)));
  for (const box of boxes) {
    box.addEventListener("scroll", () => mark(box), { passive: true });
    sizes.observe(box);
  }
});

"""Which bases count as static: made from one point's gradients or Hessian, or from other tasks' displacements."""

STATIC = (
    "static_start",
    "static_star",
    "static_broken",
    "static_all_tasks",
    "static_hessian_top",
    "task_vectors",
)

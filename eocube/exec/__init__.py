"""Running: labels and evaluation of windows, one region's task, executors, claims, and the resume driver."""

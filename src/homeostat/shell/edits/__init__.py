"""The one place that changes parameters, gradients, buffers, modules and optimizer state."""

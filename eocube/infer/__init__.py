"""Networks on arrays: the Model protocol, load once, batching, the worker pool. Knows nothing of SR, clouds, stores or xarray."""

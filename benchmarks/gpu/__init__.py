"""What a GPU makes of the kernels and of the engine, in one command: see `run.sh`."""

"""Kernels: tensor in, tensor out. Each has a torch reference, a CPU form and a Triton form."""

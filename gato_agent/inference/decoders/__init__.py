"""Decoders of actions: PyTorch, compiled C++ and CUDA graphs, with the sampling that they share."""

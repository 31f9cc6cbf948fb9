"""Control steps as graphs that other runtimes load: ONNX, and `torch.export`."""

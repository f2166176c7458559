"""Networks as files for other runtimes: ONNX, TorchScript and OpenVINO. Each is written and run here, on the CPU."""

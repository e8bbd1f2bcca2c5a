"""Detectors that are graphs, run by onnxruntime or OpenVINO; nothing here needs torch."""

"""Studies that train many detectors."""

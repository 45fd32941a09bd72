"""The demo: two missions through the real chain, on real parts, with nothing to configure."""

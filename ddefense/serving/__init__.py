"""Running exported networks: by TensorFlow's C++ runtime, or by asking a server."""

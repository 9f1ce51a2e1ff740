"""Expert-parallel training in numbers: loads of devices, bytes, memory and time of systems that treat busy experts."""

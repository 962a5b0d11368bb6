"""Meshes of devices, and programs compiled for devices that this machine does not have."""

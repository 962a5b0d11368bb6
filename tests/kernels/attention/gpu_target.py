"""A GPU to lower for, on machines that have none."""

from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

H100, T4 = "NVIDIA H100 80GB HBM3", "Tesla T4"


def gpu_in_sight(kind: str = H100):
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="gpu")
    return use_abstract_mesh(AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=device))

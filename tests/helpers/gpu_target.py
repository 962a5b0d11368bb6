"""A GPU to lower for, on machines that have none."""

from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

H100, T4 = "NVIDIA H100 80GB HBM3", "Tesla T4"


def lower_for_gpu(kind: str = H100):
    """Return a context in which JAX lowers for a GPU of this kind."""
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="gpu")
    return use_abstract_mesh(AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=device))

"""Device meshes and sharding: mesh axis sizes, sharding rules, sharded operations, compiler options."""

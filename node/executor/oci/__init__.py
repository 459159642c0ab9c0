"""The `oci` driver: container images, checked and flattened by us, run by podman."""

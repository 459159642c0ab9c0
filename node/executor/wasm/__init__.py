"""What runs a WebAssembly program inside the sandbox: an interpreter, and an operating system of its own."""

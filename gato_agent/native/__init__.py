"""C++ sources and their build."""

"""Values every room shares: frozen, without I/O, clock or chance."""

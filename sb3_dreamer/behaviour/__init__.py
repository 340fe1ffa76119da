"""What algorithms share whose actors and critics learn in imagination; each algorithm adds its own losses."""

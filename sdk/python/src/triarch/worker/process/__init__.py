"""Process of a worker: its descriptors and limits, its signals, forked children, and process 1 of a container."""

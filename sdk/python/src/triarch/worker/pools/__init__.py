"""Where the functions of tasks run: in processes, in threads, or on an event loop."""

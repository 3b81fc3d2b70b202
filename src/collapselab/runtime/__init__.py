"""The process: devices and collectives, terminal, signals, memory, operating system errors."""

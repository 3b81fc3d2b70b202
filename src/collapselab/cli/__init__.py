"""Command line: options, and a module for each verb."""

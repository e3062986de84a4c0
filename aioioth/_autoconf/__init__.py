"""Automatic configuration: what finds an interface's addresses, routes and servers."""

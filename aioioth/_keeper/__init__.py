"""The keeper: the one helper process that owns the program's namespaces.

``helper.py`` is the program, ``client.py`` talks to it, ``messages.py`` is what they
say. Only the keeper enters namespaces; what it hands back are descriptors.
"""

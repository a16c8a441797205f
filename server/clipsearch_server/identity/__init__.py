"""Who may call: keys and certificates, read from files that may change under a server."""

"""Web plumbing: settings, authentication, transactions, limits, middleware, errors, metrics, application state."""

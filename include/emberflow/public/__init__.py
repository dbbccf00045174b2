"""The small public application: one-click unsubscribe only (RFC 8058). Not built yet."""

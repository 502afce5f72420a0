"""The one place that speaks to JetStream."""

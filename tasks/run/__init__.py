"""What all steps of a run share: session, settings, log, progress, artifacts, errors."""

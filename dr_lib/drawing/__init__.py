"""Pictures and plots from arrays and numbers. The science never imports it."""

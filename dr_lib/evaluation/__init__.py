"""How good the grades are: measures with intervals, grades of several poses and both eyes."""

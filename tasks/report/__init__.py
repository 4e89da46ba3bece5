"""The step `report`: the pages people look at."""

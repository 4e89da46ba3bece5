"""The step `aggregate`: attributions to tables, judged by lesion masks where there are any."""

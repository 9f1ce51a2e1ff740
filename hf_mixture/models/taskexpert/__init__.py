"""TaskExpert: dense prediction of several tasks by experts that gates assemble, with a memory for each task."""

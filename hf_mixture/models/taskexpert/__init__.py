"""TaskExpert: multi-task dense prediction by experts that dynamic gates assemble for each task, with a feature memory."""

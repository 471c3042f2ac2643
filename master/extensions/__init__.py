"""Extensions: users' code that runs during a request, in processes of its own."""

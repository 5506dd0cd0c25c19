"""Where rows come from, and how they become requests; read as a stream in the worker."""

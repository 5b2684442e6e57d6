"""One metric per file: functions on features, logits, samples or words. No file is read here and no network is run."""

"""TaskFlow: functions whose rows are a batch."""

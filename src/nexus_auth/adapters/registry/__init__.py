"""Where registered keys come from: every module here implements the KeyRegistry port."""

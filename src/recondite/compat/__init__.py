"""Recondite behind the interfaces of other libraries: scikit-learn, PyOD, alibi-detect. Each is a skin, no more."""

"""From a trained student to answers: export, recogniser, gallery, page."""

"""The web page, built with Gradio: chat, mail, a comparison of two versions, and feedback for reviewers."""

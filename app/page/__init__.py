"""The web page, built with Gradio: chat, mail, and a comparison of two versions."""

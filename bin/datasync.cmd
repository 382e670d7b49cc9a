@setlocal & set "DATASYNC_COMMAND=datasync" & set "PYTHONPATH=%~dp0..;%PYTHONPATH%"
@"%~dp0..\.venv\Scripts\python.exe" -m datasync %*

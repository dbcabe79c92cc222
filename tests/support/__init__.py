"""What tests share: processes, servers, tools of Debian, and the files that are made from the code."""

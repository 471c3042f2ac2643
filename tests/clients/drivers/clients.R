# Clients of R: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients).
library(httr)
library(jsonlite)
arguments <- commandArgs(trailingOnly = TRUE)
client <- arguments[1]
operation <- arguments[2]
url <- arguments[3]
file <- arguments[4]

run <- function() {
  if (operation == "get") {
    answer <- GET(url)
    writeBin(content(answer, "raw"), file)
    return(list(status = status_code(answer), said = ""))
  }
  if (operation == "head") {
    answer <- HEAD(url)
    return(list(status = status_code(answer), said = headers(answer)[["content-length"]]))
  }
  body <- if (operation == "form") {
    list(file = upload_file(file))
  } else if (client == "raw") {
    readBin(file, "raw", file.size(file))
  } else {
    upload_file(file)
  }
  answer <- PUT(url, body = body)
  list(status = status_code(answer), said = content(answer, "text", encoding = "UTF-8"))
}

seen <- tryCatch(run(), error = function(error) list(status = NULL, said = conditionMessage(error)))
cat(toJSON(seen, auto_unbox = TRUE, null = "null"), "\n")

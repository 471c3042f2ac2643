# Clients of Ruby: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients).
require "json"
require "net/http"
require "open-uri"

def run(client, operation, url, file)
  if operation == "get"
    answer = URI.open(url) { |stream| [stream.status[0], stream.read] }
    File.binwrite(file, answer[1])
    return [answer[0].to_i, ""]
  end
  address = URI(url)
  if operation == "head"
    answer = Net::HTTP.start(address.host, address.port) { |http| http.head(address.request_uri) }
    return [answer.code.to_i, answer["Content-Length"]]
  end
  request = Net::HTTP::Put.new(address)
  request["Content-Type"] = "application/octet-stream"
  File.open(file, "rb") do |source|
    case operation
    when "form"
      request.set_form([["file", source]], "multipart/form-data")
    when "stream"
      request["Transfer-Encoding"] = "chunked"
      request.body_stream = source
    else
      request.content_length = source.size
      request.body_stream = source
    end
    request["Expect"] = "100-continue" if client == "expect"
    Net::HTTP.start(address.host, address.port) do |http|
      http.continue_timeout = 5
      answer = http.request(request)
      return [answer.code.to_i, answer.body]
    end
  end
end

begin
  status, said = run(*ARGV)
rescue StandardError => error
  said = "#{error.class}: #{error.message}"
end
puts JSON.generate("status" => status, "said" => said)

<?php
// Clients of PHP: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients).
[, $client, $operation, $url, $file] = $argv;

function curl(string $client, string $operation, string $url, string $file): array
{
    $curl = curl_init($url);
    curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);
    curl_setopt($curl, CURLOPT_FOLLOWLOCATION, in_array($operation, ["get", "head"]) || $client != "curl");
    if ($client == "curl-follow-unexpecting") {
        curl_setopt($curl, CURLOPT_HTTPHEADER, ["Expect:"]);
    }
    if ($operation == "form") {
        curl_setopt($curl, CURLOPT_CUSTOMREQUEST, "PUT");
        curl_setopt($curl, CURLOPT_POSTFIELDS, ["file" => new CURLFile($file)]);
    } elseif ($operation == "head") {
        curl_setopt($curl, CURLOPT_NOBODY, true);
    } elseif ($operation != "get") {
        curl_setopt($curl, CURLOPT_UPLOAD, true);
        curl_setopt($curl, CURLOPT_INFILE, fopen($file, "rb"));
        if ($operation == "put") {
            curl_setopt($curl, CURLOPT_INFILESIZE, filesize($file));
        }
    }
    $said = curl_exec($curl);
    if ($said === false) {
        return [null, "curl error " . curl_errno($curl) . ": " . curl_error($curl)];
    }
    if ($operation == "get") {
        file_put_contents($file, $said);
        $said = "";
    }
    if ($operation == "head") {
        $said = (string) curl_getinfo($curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T);
    }
    return [curl_getinfo($curl, CURLINFO_RESPONSE_CODE), $said];
}

function streams(string $operation, string $url, string $file): array
{
    if ($operation == "get") {
        file_put_contents($file, file_get_contents($url));
    } else {
        $type = "Content-Type: application/octet-stream";
        $options = ["method" => "PUT", "header" => $type, "content" => file_get_contents($file), "ignore_errors" => true];
        $said = file_get_contents($url, false, stream_context_create(["http" => $options]));
    }
    $status = null;
    foreach ($http_response_header ?? [] as $line) { // those of all answers: the last one counts
        if (preg_match("~^HTTP/\S+ (\d{3})~", $line, $found)) {
            $status = (int) $found[1];
        }
    }
    return [$status, $operation == "get" ? "" : (string) $said . (error_get_last()["message"] ?? "")];
}

ini_set("memory_limit", "512M");
ini_set("display_errors", "stderr");
[$status, $said] = $client == "streams" ? streams($operation, $url, $file) : curl($client, $operation, $url, $file);
echo json_encode(["status" => $status, "said" => $said], JSON_INVALID_UTF8_SUBSTITUTE), "\n";
